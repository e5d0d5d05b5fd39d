#!/bin/sh
# The kubelet of a node refuses its configuration, at every start, until it is not started any more.
. "$(dirname "$0")/lib.sh"
begin 31

unit kubelet.service <<'UNIT'
[Unit]
StartLimitIntervalSec=300
StartLimitBurst=3
[Service]
Restart=always
RestartSec=100ms
ExecStart=/bin/sh -c 'echo "E run.go:74] command failed: failed to load kubelet config file /var/lib/kubelet/config.yaml: failed to parse: line 7: unknown field podPidLimit" >&2; exit 1'
UNIT
reload
start kubelet.service
await has kubelet.service NRestarts 3
outcome kubelet.service failed exit-code exited 1
end
