#!/bin/sh
# The clock is set forward by two hours, as an administrator does it, and a unit finds its certificate past its end; then
# the clock is set back. Of a bare settimeofday(2) the journal hears nothing, since PID 1 logs it for debugging only. Only
# where the clock is the host's own.
. "$(dirname "$0")/lib.sh"
begin 30

[ "$(systemd-detect-virt --container || true)" = none ] || cannot "the clock of a container is its host's"
cat >/run/verifies.py <<'PYTHON'
import sys, time
# Valid for an hour, checked as libraries of TLS do: against the clock on the wall.
not_after = time.time() + 3600
while time.time() < not_after:
    time.sleep(0.2)
sys.exit("tls: failed to verify certificate: x509: certificate has expired or is not yet valid")
PYTHON
unit verifies.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 /run/verifies.py
UNIT
reload
start verifies.service
active verifies.service
sleep 1
timedatectl set-time "$(date --date='+2 hours' '+%F %T')"
say did what=stepped unit=- delta_s=7200
outcome verifies.service failed exit-code exited 1
sleep 2
timedatectl set-time "$(date --date='-2 hours' '+%F %T')"
say did what=stepped unit=- delta_s=-7200
end
