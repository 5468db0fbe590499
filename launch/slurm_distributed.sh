#!/usr/bin/env bash
# One run over all GPUs of several nodes, a process for each GPU; JAX finds the
# others by Slurm's variables:
#
#   CONFIG=configs/imagenet_msdnet35.py WORKDIR=runs/imagenet \
#       sbatch --nodes=4 launch/slurm_distributed.sh --config.data.dir=DIR
#
# WORKDIR must be on a file system that all nodes see. Flags after the file's name go
# to train.py.
#SBATCH --job-name=eenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
exec srun python train.py --distributed --config="$CONFIG" --workdir="$WORKDIR" "$@"
