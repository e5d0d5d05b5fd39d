#!/bin/sh
# A unit keeps a cache on a small file system of its own, finds it full, makes room and goes on, again and again.
. "$(dirname "$0")/lib.sh"
begin N7

mkdir -p /srv/cache
mountpoint -q /srv/cache || mount -t tmpfs -o size=4m,mode=755 cache /srv/cache
cat >/run/cache.py <<'PYTHON'
import glob, itertools, os, time
rounds = 0
for number in itertools.count():
    try:
        with open(f"/srv/cache/{number}", "wb") as entry:
            entry.write(bytes(1 << 19))
    except OSError as error:
        rounds += 1
        print(f"evicting round {rounds}: {error}", flush=True)
        for old in glob.glob("/srv/cache/*"):
            os.unlink(old)
    time.sleep(0.05)
PYTHON
unit cache.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 /run/cache.py
UNIT
reload
start cache.service
await logged cache.service 'evicting round 4'
active cache.service
say did what=filled unit=cache.service mount=/srv/cache rounds=4
systemctl stop cache.service
umount /srv/cache
outcome cache.service inactive success killed 15
end
