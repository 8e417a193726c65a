#!/bin/sh
# Tells Ray that this node will be taken away, and gives its actors time to reach their next step checkpoint.
#
#   wordmint-drain SECONDS
#
# Kubernetes runs it before it stops a worker pod; on a spot machine, run it when the cloud's warning arrives. Ray then places nothing
# more here and counts what dies afterwards as preempted, which uses up none of a concept's attempts. An idle node leaves at once.
set -eu

seconds=$1
ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the node is being taken away" \
    --deadline-remaining-seconds "$seconds"
while [ "$seconds" -gt 0 ] && pgrep -f '^ray::[^I]' >/dev/null; do  # every worker process but ray::IDLE
    sleep 1
    seconds=$((seconds - 1))
done
