#!/bin/bash
# vLLM beside the service: started with the folder that the link names, started anew when the link turns or it dies.
set -euo pipefail
link="${VLLM_LINK:-/cache/vllm}"
port="${VLLM_PORT:-8001}"
running="" pid=""

end() {
  if [[ -n "$pid" ]]; then
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" || true
    pid=""
  fi
}
trap 'end; exit 0' TERM INT

while true; do
  wanted="$(readlink "$link" || true)"
  if [[ -n "$pid" ]] && ! kill -0 "$pid" 2>/dev/null; then
    echo "vLLM ended by itself; starting it again" >&2
    pid="" running=""
    sleep 2
  fi
  if [[ -n "$wanted" && "$wanted" != "$running" ]]; then
    end
    # the version's key, 3-0123456789ab: the service waits until this name is listed
    "${VLLM_COMMAND:-vllm}" serve "$(dirname "$link")/$wanted" --served-model-name "$(dirname "$wanted")" \
      --host "${VLLM_HOST:-127.0.0.1}" --port "$port" &
    pid=$! running="$wanted"
  fi
  sleep 1 &
  wait $! || true
done
