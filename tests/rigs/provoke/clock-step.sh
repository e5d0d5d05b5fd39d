#!/bin/sh
# The clock is set forward by two hours, and a unit finds its certificate past its end; then the clock is set back.
# Only where the clock is the host's own.
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
date --set='+2 hours' >/dev/null
say did what=stepped unit=- delta_s=7200
outcome verifies.service failed exit-code exited 1
sleep 2
date --set='-2 hours' >/dev/null
say did what=stepped unit=- delta_s=-7200
end
