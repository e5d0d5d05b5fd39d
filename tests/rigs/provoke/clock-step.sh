#!/bin/sh
# The clock is set forward by two hours and back again, as an administrator does it: of a bare settimeofday(2) the journal
# hears nothing, since PID 1 logs it for debugging only. Only where the clock is the host's own.
. "$(dirname "$0")/lib.sh"
begin 30

[ "$(systemd-detect-virt --container || true)" = none ] || cannot "the clock of a container is its host's"
timedatectl set-time "$(date --date='+2 hours' '+%F %T')"
say did what=stepped unit=- delta_s=7200
sleep 2
timedatectl set-time "$(date --date='-2 hours' '+%F %T')"
say did what=stepped unit=- delta_s=-7200
end
