#!/bin/sh
# Caddy wants the password's bcrypt hash; it is made here, so that .env holds one secret a line and nothing else.
set -eu
PROXY_PASSWORD_HASH="$(caddy hash-password --plaintext "$PROXY_PASSWORD")"
export PROXY_PASSWORD_HASH
unset PROXY_PASSWORD
exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile
