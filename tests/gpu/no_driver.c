// What cuDNN asks CUDA's driver and runtime for before it makes a plan, answered where there is no GPU: one H100,
// of which nothing ever runs. With -DRUNTIME this is libcudart, else libcuda.

#include <stddef.h>
#include <string.h>

#define ANSWER(NAME) int NAME(void) { return 0; }

#ifdef RUNTIME
int cudaGetDevice(int* number) { return *number = 0; }
int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaDriverGetVersion(int* version) { return *version = 12080, 0; }
int cudaRuntimeGetVersion(int* version) { return *version = 12080, 0; }
const char* cudaGetErrorString(int error) { return "no driver"; }
ANSWER(cudaGetLastError)
int cudaGetDeviceProperties(char* properties, int number)
{
    memset(properties, 0, 512);  // a cudaDeviceProp of CUDA 12, as far as its 'multiProcessorCount'
    strcpy(properties, "NVIDIA H100");
    *(int*)(properties + 360) = 9;  // compute capability
    *(int*)(properties + 388) = 132;
    return 0;
}
int cudaGetDeviceProperties_v2(char* properties, int number) { return cudaGetDeviceProperties(properties, number); }
#else
int cuDriverGetVersion(int* version) { return *version = 12080, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int number) { return *device = 0; }
ANSWER(cuInit)
ANSWER(cuGetErrorString)
ANSWER(cuGetErrorName)
ANSWER(cuModuleLoadData)
ANSWER(cuModuleGetFunction)
ANSWER(cuModuleUnload)
ANSWER(cuTensorMapEncodeTiled)
ANSWER(cuTensorMapEncodeIm2col)
ANSWER(cuCtxGetCurrent)
ANSWER(cuCtxGetLimit)
ANSWER(cuCtxPopCurrent)
ANSWER(cuCtxPushCurrent)
ANSWER(cuKernelGetAttribute)
ANSWER(cuKernelGetFunction)
ANSWER(cuKernelSetAttribute)
ANSWER(cuLaunchCooperativeKernel)
ANSWER(cuLaunchKernel)
ANSWER(cuLaunchKernelEx)
ANSWER(cuLibraryGetKernel)
ANSWER(cuLibraryLoadData)
ANSWER(cuLibraryLoadFromFile)
ANSWER(cuLibraryUnload)
ANSWER(cuLinkAddData)
ANSWER(cuLinkComplete)
ANSWER(cuLinkCreate)
ANSWER(cuLinkDestroy)
ANSWER(cuOccupancyMaxPotentialClusterSize)
ANSWER(cuStreamGetCtx)
#endif
