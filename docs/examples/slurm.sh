#!/bin/bash
# Three nodes of a Slurm cluster, one Ray over them, one run: sbatch docs/examples/slurm.sh
# Given again after a time limit, it goes on where it stopped (run --resume); once the run is done it does nothing.
#SBATCH --job-name=dfl-ray
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --exclusive
#SBATCH --output=dfl-ray-%j.log
set -eu

# A folder that every node sees, with .venv made by `make setup`.
cd "${SLURM_SUBMIT_DIR:?}"
. .venv/bin/activate

head=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?}" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))

srun --nodes="${SLURM_JOB_NUM_NODES:?}" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run \
    --address "$head:$port" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "${SLURM_CPUS_PER_TASK:?}" \
    -- \
    python -m dfl_ray run scale-10k --resume name=scale-10k "runtime.address=$head:$port" track=none
