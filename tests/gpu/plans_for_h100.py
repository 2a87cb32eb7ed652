"""Ask NVIDIA's cuDNN which plans it has for an H100, where there is none: one line of JSON for each problem.

It plans for a GPU that is only described to it, which is meant for compiling ahead of time. Run by
test_cudnn_plans.py in a process of its own, with no_driver.c in place of the driver.
"""

import json
import sys

H100 = {
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "cudaDeviceId": 0, "pciDeviceId": 0,
    "driverVer": 12080, "totalGlobalMem": 85017755648, "multiProcessorCount": 132, "smCountOrigin": 0,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "warpSize": 32,
    "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "memoryBusWidth": 5120,
    "l2CacheSize": 52428800,
}  # fmt: skip


def offered(cudnn, graph):
    """The plans by name, not built: an engine of attention is compiled for the GPU, by its driver."""
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    return dict.fromkeys(range(graph.get_execution_plan_count()), 0)


def main():
    """From stdin to stdout."""
    import cudnn

    from deepcore.backends.cupy.attention import Attention
    from deepcore.backends.cupy.cudnn import Convolution, plans_for

    for line in sys.stdin:
        told = {key: tuple(x) if isinstance(x, list) else x for key, x in json.loads(line).items()}
        problem = (Attention if "gradient" in told else Convolution)(**told)
        where = {"device_property": cudnn.create_device_properties(json.dumps(H100)), "sm_version": 90}
        graph, _ = problem.describe(cudnn, **where)
        plans = offered(cudnn, graph) if "gradient" in told else plans_for(cudnn, graph, problem)
        print(
            json.dumps([[graph.get_plan_name_at_index(number), size] for number, size in plans.items()]),
            flush=True,
        )
