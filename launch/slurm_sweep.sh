#!/usr/bin/env bash
# A sweep as a Slurm array job, a run for every task:
#
#   python train.py --config=configs/digits.py --sweep=lr,seed --sweep_list   # how many
#   CONFIG=configs/digits.py SWEEP=lr,seed WORKDIR=runs/sweep \
#       sbatch --array=0-8 launch/slurm_sweep.sh
#
# Tasks that were preempted or failed are done again by the same command; what is
# finished is left as it is. Flags after the file's name go to train.py.
#SBATCH --job-name=eenet_sweep
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A-%a.out
set -euo pipefail
exec python train.py --config="$CONFIG" --sweep="$SWEEP" --workdir="$WORKDIR" \
    --sweep_index="$SLURM_ARRAY_TASK_ID" "$@"
