#!/bin/sh
# The clock is set forward by two hours and back again. Only where the clock is the host's own.
. "$(dirname "$0")/lib.sh"
begin 30

[ "$(systemd-detect-virt --container || true)" = none ] || cannot "the clock of a container is its host's"
date --set='+2 hours' >/dev/null
say did what=stepped unit=- delta_s=7200
sleep 2
date --set='-2 hours' >/dev/null
say did what=stepped unit=- delta_s=-7200
end
