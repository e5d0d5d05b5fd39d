#!/bin/sh
# systemd-oomd kills a unit's cgroup because of its memory pressure. Needs cgroup v2 and systemd-oomd.
. "$(dirname "$0")/lib.sh"
begin 6

cgroup2 || cannot "systemd-oomd needs cgroup v2"
systemctl is-active --quiet systemd-oomd.service || systemctl start systemd-oomd.service ||
    cannot "systemd-oomd does not run"
unit pressed.slice <<'UNIT'
[Slice]
MemoryHigh=24M
MemorySwapMax=0
ManagedOOMMemoryPressure=kill
ManagedOOMMemoryPressureLimit=1%
UNIT
unit pressed.service <<'UNIT'
[Service]
Slice=pressed.slice
ExecStart=/usr/bin/python3 -c 'held = [bytearray(1 << 20) for _ in range(256)]\nwhile True:\n for block in held:\n  for at in range(0, len(block), 4096): block[at] ^= 1'
UNIT
mkdir -p /run/systemd/oomd.conf.d
printf '[OOM]\nDefaultMemoryPressureDurationSec=2s\n' >/run/systemd/oomd.conf.d/fast.conf
systemctl restart systemd-oomd.service
reload
start pressed.service
outcome pressed.service failed oom-kill killed 9
end
