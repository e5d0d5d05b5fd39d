#!/bin/sh
# A mount fails; two services need it, and their start jobs end with `dependency`.
. "$(dirname "$0")/lib.sh"
begin 12

mkdir -p /srv/archive
unit srv-archive.mount <<'UNIT'
[Mount]
What=/dev/disk/nowhere
Where=/srv/archive
Type=ext4
UNIT
for name in index search; do
    unit $name.service <<'UNIT'
[Unit]
RequiresMountsFor=/srv/archive
[Service]
ExecStart=/bin/sleep infinity
UNIT
done
reload
for name in index search; do
    if systemctl start $name.service 2>/dev/null; then
        fail "$name.service started without its mount"
    fi
    say did what=job_dependency unit=$name.service
done
has srv-archive.mount ActiveState failed || fail "srv-archive.mount did not fail"
say did what=mount_failed unit=srv-archive.mount "result=$(property srv-archive.mount Result)"
end
