#!/bin/sh
# One unit makes so many files that a file system has no inodes left, with most of its bytes free; another fails.
. "$(dirname "$0")/lib.sh"
begin 9

mkdir -p /srv/inodes
mountpoint -q /srv/inodes || mount -t tmpfs -o size=64m,nr_inodes=400,mode=755 inodes /srv/inodes
unit sessions.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -c 'import itertools, time\ntry:\n for number in itertools.count(): open(f"/srv/inodes/session-{number}", "w").close(); time.sleep(0.002)\nexcept OSError as error: print(error, flush=True); time.sleep(3600)'
UNIT
unit spool.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -c 'import itertools, os, time\nfor number in itertools.count(): path = f"/srv/inodes/spool-{number}"; open(path, "w").close(); os.unlink(path); time.sleep(0.5)'
UNIT
reload
start spool.service
active spool.service
start sessions.service
outcome spool.service failed exit-code exited 1
say did what=filled unit=sessions.service mount=/srv/inodes "free_inodes=$(df --output=iavail /srv/inodes | tail -n 1 | tr -d ' ')"
# They stay, as they would until somebody makes room.
sleep 4
systemctl stop sessions.service
umount /srv/inodes
end
