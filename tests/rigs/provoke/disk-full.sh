#!/bin/sh
# One unit fills a file system; another one, which writes little, fails on it.
. "$(dirname "$0")/lib.sh"
begin 7

mkdir -p /srv/full
mountpoint -q /srv/full || mount -t tmpfs -o size=16m,mode=755 full /srv/full
unit filler.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'dd if=/dev/zero of=/srv/full/archive bs=64k; exec sleep infinity'
UNIT
unit writer.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -uc 'import time\nwhile True:\n with open("/srv/full/state", "a") as file: file.write("x" * 5000)\n time.sleep(0.1)'
UNIT
reload
start writer.service
active writer.service
sleep 1
start filler.service
outcome writer.service failed exit-code exited 1
say did what=filled unit=filler.service mount=/srv/full "available_kib=$(df --output=avail /srv/full | tail -n 1 | tr -d ' ')"
# It stays full, as it would until somebody makes room.
sleep 4
systemctl stop filler.service
umount /srv/full
end
