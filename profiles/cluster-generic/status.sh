#!/bin/sh
# Print success, failed or running: how SLURM's job $1 is. squeue remembers ended jobs for MinJobAge seconds.
if ! state=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>&1); then
    case $state in
        *"Invalid job id"*) state=FORGOTTEN ;;
        *) state=UNREACHABLE ;; # the scheduler is asked again
    esac
fi
case $state in
    COMPLETED) echo success ;;
    "" | BOOT_FAIL | CANCELLED | DEADLINE | FAILED | FORGOTTEN | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | TIMEOUT) echo failed ;;
    *) echo running ;;
esac
