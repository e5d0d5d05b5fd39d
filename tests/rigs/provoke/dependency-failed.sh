#!/bin/sh
# Three units require a fourth that cannot start: their start jobs end with `dependency`.
. "$(dirname "$0")/lib.sh"
begin 12

unit store.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo store: no such volume >&2; exit 5'
UNIT
for name in web mail batch; do
    unit needs-store-$name.service <<'UNIT'
[Unit]
Requires=store.service
After=store.service
[Service]
ExecStart=/bin/sleep infinity
UNIT
done
reload
for name in web mail batch; do
    if systemctl start needs-store-$name.service 2>/dev/null; then
        fail "needs-store-$name.service started without its store"
    fi
    say did what=job_dependency unit=needs-store-$name.service
done
outcome store.service failed exit-code exited 5
end
