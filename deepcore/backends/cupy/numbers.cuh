// Numbers: what each kernel is written in.
//
// Numbers are read and written as T, and computed in Wide<T>: float, or double for double.
// Each family ends with a macro KERNELS(T, NAME), which makes its kernels for one dtype; kernels.py adds the line
// that calls it, because compiling a family takes a second or two for each. No header is included, so that
// NVRTC alone compiles this; tests/gpu/emulation.h gives it a meaning in C++.

#define KERNEL extern "C" __global__ void __launch_bounds__(512, 1)

using int64 = long long;
struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

template <class T> struct Wide { using type = float; };
template <> struct Wide<double> { using type = double; };

#ifndef EMULATION
__device__ inline float half_to_float(unsigned short bits)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short float_to_half(float x)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

__device__ inline unsigned short float_to_bfloat16(float x)
{
    const unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // the nearest; of two, the even one
}

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float16 x) { return half_to_float(x.bits); }
__device__ inline float widen(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <class T, class A> struct Narrow {
    static __device__ T of(A x) { return (T)x; }
};
template <class A> struct Narrow<float16, A> {
    static __device__ float16 of(A x) { return {float_to_half((float)x)}; }
};
template <class A> struct Narrow<bfloat16, A> {
    static __device__ bfloat16 of(A x) { return {float_to_bfloat16((float)x)}; }
};
template <class T, class A> __device__ inline T narrow(A x) { return Narrow<T, A>::of(x); }

template <class A> __device__ inline A infinity() { return (A)__uint_as_float(0x7f800000); }

template <class T> union alignas(16) Vector {
    uint4 all;
    T each[16 / sizeof(T)];
};
