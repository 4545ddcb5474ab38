#!/bin/sh
# Exec, attach and port-forward with the real crictl, over both of its transports.
#
#   CRICTL, ENDPOINT, IMAGE, WORK, CGROUP_PARENT   as for main-path.sh; the image is pulled already
set -eu

CRICTL=${CRICTL:-crictl}
ENDPOINT=${ENDPOINT:-unix:///run/crisp/crisp.sock}
IMAGE=${IMAGE:?an image with a shell}
WORK=${WORK:-$(mktemp -d)}
cd "$WORK"

crictl() {
    "$CRICTL" --config /dev/null --runtime-endpoint "$ENDPOINT" --image-endpoint "$ENDPOINT" --timeout 30s "$@"
}

fail() {
    echo "FAILED: $*"
    exit 1
}

# same WHAT WANTED GOT
same() {
    [ "$2" = "$3" ] || fail "$1: wanted $(printf '%s' "$2" | head -c 300), got $(printf '%s' "$3" | head -c 300)"
    echo "ok: $1"
}

cat > pod.json <<JSON
{
  "metadata": { "name": "streaming", "namespace": "default", "uid": "crictl-streaming", "attempt": 1 },
  "log_directory": "$WORK/crictl-logs",
  "linux": { "cgroup_parent": "${CGROUP_PARENT:-}" }
}
JSON
cat > container.json <<JSON
{
  "metadata": { "name": "main", "attempt": 0 },
  "image": { "image": "$IMAGE" },
  "command": ["/bin/sh", "-c", "while read line; do echo \"heard \$line\"; done; echo end of input; sleep 1000"],
  "log_path": "main.log",
  "stdin": true,
  "stdin_once": true,
  "linux": {}
}
JSON

pod=$(crictl runp pod.json)
container=$(crictl create "$pod" container.json pod.json)
crictl start "$container" >/dev/null

for transport in spdy websocket; do
    run() { crictl exec --transport $transport "$@"; }
    same "$transport: stdout" "hello" "$(run "$container" echo hello)"
    same "$transport: stderr" "oops" "$(run "$container" sh -c 'echo oops >&2' 2>&1 >/dev/null)"
    same "$transport: stdin" "to and fro" "$(echo to and fro | run -i "$container" cat)"
    code=0
    run "$container" sh -c 'echo last words; exit 42' >words 2>err || code=$?
    same "$transport: output before the exit code" "last words" "$(cat words)"
    grep -q 42 err || fail "$transport: no exit code in: $(cat err)"
    [ "$code" -ne 0 ] || fail "$transport: a failing command must fail"
    sum=$(head -c 5000000 /dev/urandom | tee input | sha256sum)
    same "$transport: 5 MB there and back" "$sum" "$(run -i "$container" cat <input | sha256sum)"
done

# One client each: the first ends the container's input, and sees its output to the end.
for transport in spdy websocket; do
    name=fed-$transport
    sed "s/\"main\"/\"$name\"/; s/main.log/$name.log/; s/; sleep 1000//" container.json >fed.json
    fed=$(crictl create "$pod" fed.json pod.json)
    crictl start "$fed" >/dev/null
    same "$transport: attach" "heard one
heard two
end of input" "$(printf 'one\ntwo\n' | crictl attach --transport $transport -i "$fed")"
done

# A server in the pod, a client of the forwarded port outside.
cat > server.json <<JSON
{
  "metadata": { "name": "server", "attempt": 0 },
  "image": { "image": "$IMAGE" },
  "command": ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"],
  "log_path": "server.log",
  "linux": {}
}
JSON
crictl start "$(crictl create "$pod" server.json pod.json)" >/dev/null
wanted=$(crictl exec --sync "$container" cat /etc/passwd)
for transport in spdy websocket; do
    port=$((18080 + ${#transport}))
    # The program itself in the background, not a shell around it, and a file that no earlier round has written to.
    "$CRICTL" --config /dev/null --runtime-endpoint "$ENDPOINT" --image-endpoint "$ENDPOINT" \
        port-forward --transport $transport "$pod" $port:8080 >forward-$transport 2>&1 &
    forwarder=$!
    trap 'kill $forwarder 2>/dev/null' EXIT
    tries=0
    until grep -q "Forwarding from" forward-$transport; do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || fail "$transport: never forwards: $(cat forward-$transport)"
        sleep 0.05
    done
    same "$transport: port-forward" "$wanted" "$(busybox wget -q -O - http://127.0.0.1:$port/passwd)"
    kill $forwarder
    wait $forwarder 2>/dev/null || true
    trap - EXIT
done

crictl rmp --force "$pod" >/dev/null
echo "streaming: done"
