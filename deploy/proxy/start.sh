#!/bin/sh
# Caddy wants the password's bcrypt hash; it is made here, so that .env holds one secret a line and nothing else.
set -eu
# printf is the shell's own: no process list shows the password
PROXY_PASSWORD_HASH="$(printf '%s\n' "$PROXY_PASSWORD" | caddy hash-password)"
export PROXY_PASSWORD_HASH
unset PROXY_PASSWORD
exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile
