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
# It works through a file that is larger than what it may hold: what is freed is wanted again, and systemd-oomd only
# looks at what is being freed.
cat >/run/presses.py <<'PYTHON'
with open("/var/tmp/pressed", "wb") as file:
    file.write(bytes(64 << 20))
held = bytearray(12 << 20)
while True:
    with open("/var/tmp/pressed", "rb", 0) as file:
        while file.readinto(memoryview(held)[: 1 << 16]):
            pass
PYTHON
unit pressed.service <<'UNIT'
[Service]
Slice=pressed.slice
ExecStart=/usr/bin/python3 /run/presses.py
ExecStopPost=/bin/rm -f /var/tmp/pressed
UNIT
mkdir -p /run/systemd/oomd.conf.d
printf '[OOM]\nDefaultMemoryPressureDurationSec=2s\n' >/run/systemd/oomd.conf.d/fast.conf
systemctl restart systemd-oomd.service
reload
start pressed.service
outcome pressed.service failed oom-kill killed 9
end
