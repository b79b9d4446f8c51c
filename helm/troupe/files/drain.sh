# Before a pod of Ray ends: a run's driver saves, then Ray tells the others that this node leaves.
# Usage: drain.sh SECONDS
left=$1
drivers=""
for line in /proc/[0-9]*/cmdline; do
  # The driver itself, not a shell that was told to start it.
  if tr '\0' ' ' 2>/dev/null <"$line" | grep -qE '/troupe (train|resume) '; then
    pid=${line#/proc/}
    drivers="$drivers ${pid%/cmdline}"
  fi
done
for pid in $drivers; do
  kill -TERM "$pid" 2>/dev/null
done
for pid in $drivers; do
  while [ "$left" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
    sleep 1
    left=$((left - 1))
  done
done
ray stop --grace-period 5
