#!/bin/sh
# journald is killed in the middle of writing and comes back by itself: `journald-kill.sh TIMES TAG`; before and
# after each kill a hundred numbered entries are written.
. "$(dirname "$0")/lib.sh"
begin 0

times=${1:-3} tag=${2:-survivor}
number=0
for round in $(seq "$times"); do
    seq -f "$tag number %g" "$number" $((number + 99)) | systemd-cat --identifier="$tag"
    number=$((number + 100))
    journalctl --quiet --sync
    old=$(property systemd-journald.service MainPID)
    # The manager starts it five times in ten seconds, and then never again.
    systemctl reset-failed systemd-journald.service
    kill -KILL "$old"
    back() {
        new=$(property systemd-journald.service MainPID)
        [ "$new" != "$old" ] && [ "$new" != 0 ] && systemctl is-active --quiet systemd-journald.service
    }
    await back
    say did what=killed unit=systemd-journald.service "pid=$old" "round=$round"
done
seq -f "$tag number %g" "$number" $((number + 99)) | systemd-cat --identifier="$tag"
journalctl --quiet --sync
say did what=logged unit=- entries=$((number + 100)) "tag=$tag"
end
