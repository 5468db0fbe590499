#!/usr/bin/env bash
# One run on all hosts of a TPU slice, which JAX finds by itself:
#
#   TPU=my-slice ZONE=us-central2-b CONFIG=configs/imagenet_msdnet35.py \
#       WORKDIR=gs://bucket/runs/imagenet launch/tpu_vm.sh
#
# The project must lie in ~/eenet_jax on every host, installed with jax[tpu]. Flags
# after the file's name go to train.py.
set -euo pipefail
printf -v flags ' %q' --distributed --config="$CONFIG" --workdir="$WORKDIR" "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="cd ~/eenet_jax && python3 train.py$flags"
