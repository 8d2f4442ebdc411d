"""Who this process is among those of its run: by torch's variables, SLURM's or MPI's, or refused."""

import pytest

from lab.base.errors import UserError
from lab.base.processes import one_of_many

MEETING = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TORCH = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEETING}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


@pytest.mark.parametrize(
    "environment",
    [
        TORCH,
        {**SRUN, **STEP, **MEETING},
        {**SRUN, **STEP, **MEETING, "WORLD_SIZE": "4"},  # as scripts for SLURM set it
        {**SRUN, **STEP, **TORCH},
        {
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "3",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            **MEETING,
        },
    ],
)
def test_a_launcher_srun_and_mpirun_say_the_same(environment):
    assert one_of_many(environment) == TORCH


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "1"},
        {**TORCH, "WORLD_SIZE": "1", "RANK": "0"},
        {"SLURM_NTASKS": "8"},  # the shell of salloc
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # a batch script
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --ntasks=1 in a job of more
    ],
)
def test_a_process_alone_needs_nothing(environment):
    assert one_of_many(environment) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "one process of 2, without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({**TORCH, "MASTER_PORT": ""}, "without MASTER_PORT"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, "without MASTER_ADDR, MASTER_PORT"),
        ({**SRUN, **STEP}, "one process of 4, without MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: expected a number"),
        ({**TORCH, "RANK": "4"}, "RANK=4, LOCAL_RANK=1: expected 0 to 3"),
        ({**TORCH, "RANK": "-1"}, "RANK=-1: expected a number"),
    ],
)
def test_one_of_many_that_knows_too_little_says_how_to_start(environment, message):
    with pytest.raises(UserError, match=message) as caught:
        one_of_many(environment)
    assert "accelerate launch" in str(caught.value)
