# Runs inside the guest: each story with an agent of its own, which leaves what it saw and said in /result.
set -u

for name in $(cat /host/names); do
    sh /host/reset.sh >/result/$name.reset 2>&1
    folder=/tmp/$name
    mkdir -p "$folder"
    socket=--socket=$folder/collector.sock
    /host/tapio-collector "$socket" --state-dir="$folder/state" --server=127.0.0.1:9 --enable-k8s=false \
        --filter-errno-budget=100 --sampler-interval=1s --record="$folder/record" --output="$folder/incidents" \
        >/result/$name.agent 2>&1 &
    agent=$!
    tries=0
    until /host/tapio-collector status --json "$socket" 2>/dev/null | grep -q '"systemd":{"state":"running"'; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] && kill -0 $agent || break
        sleep 0.1
    done
    sleep 2
    sh /host/$name.sh >/result/$name.said 2>/result/$name.errors
    echo $? >/result/$name.status
    sleep 10
    kill -TERM $agent
    wait $agent
    cp "$folder/record" "$folder/incidents" /tmp/
    mv /tmp/record /result/$name.record
    mv /tmp/incidents /result/$name.incidents
done
