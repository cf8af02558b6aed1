#!/bin/sh
# Starts the gateway and Vast's PyWorker side by side, and stops them in order.
#
# On TERM or INT the gateway drains first, as its streams run through the PyWorker. When the gateway
# fails, the PyWorker stays for FATAL_GRACE seconds to report it, and then all ends with the
# gateway's exit code. A PyWorker that ends by itself is started again: it reads MODEL_LOG from
# the start, and its benchmark is kept.
#
# MODEL_LOG       needed: the file that the gateway writes and the PyWorker watches
# GATEWAY_PYTHON  Python with llama-gateway, PYWORKER_PYTHON with vastai; both default to python3
# WORKSPACE_DIR   where the PyWorker keeps its benchmark; /workspace
set -u

: "${MODEL_LOG:?set MODEL_LOG to a file in a folder that can be written}"
: "${WORKSPACE_DIR:=/workspace}"
: "${GATEWAY_PYTHON:=python3}"
: "${PYWORKER_PYTHON:=python3}"
: "${FATAL_GRACE:=30}"
export MODEL_LOG
# The SDK has no defaults of its own for these.
export REPORT_ADDR="${REPORT_ADDR:-https://run.vast.ai}" WORKER_PORT="${WORKER_PORT:-3000}"

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
gateway='' worker='' stopping=''

# A stopped instance keeps its disk: lines of the run before would count as news.
mkdir -p -- "$(dirname -- "$MODEL_LOG")" "$WORKSPACE_DIR" || exit 1
: >"$MODEL_LOG" || exit 1

start_worker() {
    # The SDK keeps .has_benchmark in its working folder.
    (cd -- "$WORKSPACE_DIR" && exec "$PYWORKER_PYTHON" "$here/worker.py") &
    worker=$!
}

stop() {
    stopping=yes
    [ -z "$gateway" ] || kill -TERM "$gateway" 2>/dev/null
}

pause() {
    sleep "$1" &
    wait $!
}

trap stop TERM INT

"$GATEWAY_PYTHON" -m gateway serve &
gateway=$!
start_worker
[ -z "$stopping" ] || stop

while kill -0 "$gateway" 2>/dev/null; do
    pause 1
    if ! kill -0 "$worker" 2>/dev/null; then
        wait "$worker"
        echo "onstart: the PyWorker ended with $?; starting it again" >&2
        pause 5
        [ -n "$stopping" ] || start_worker
    fi
done
wait "$gateway"
code=$?

if [ "$code" -ne 0 ] && [ -z "$stopping" ]; then
    # Killed, or wrong settings: then the gateway could not say so itself.
    grep -q '^GATEWAY FATAL ' "$MODEL_LOG" || echo "GATEWAY FATAL exit_$code" >>"$MODEL_LOG"
    echo "onstart: the gateway ended with $code" >&2
    pause "$FATAL_GRACE"
fi
kill -TERM "$worker" 2>/dev/null
wait "$worker"
exit "$code"
