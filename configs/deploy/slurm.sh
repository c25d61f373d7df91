#!/usr/bin/env bash
#SBATCH --job-name=warmup
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=01:30:00
# Warm up the nodes of this allocation, then serve on them. Submit with: sbatch slurm.sh my.yaml
set -euo pipefail

config=$(realpath "${1:?usage: sbatch slurm.sh CONFIG}")
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Every node runs the same line. Ray forms one cluster, the head runs the command, and the cluster ends with it.
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    ray-warmup run --config "$config"

# The inner shell of each node expands these variables.
# shellcheck disable=SC2016
srun bash -c 'eval "$(ray-warmup env --check --config "$1")" && exec my-engine' _ "$config"
