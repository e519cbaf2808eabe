// A library with the functions of the CUDA driver that are called, which checks
// that every argument arrives as it was given. With the toolkit's header at hand
// (-DHEADER) the compiler holds the prototypes to it.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef HEADER
#include <cuda.h>
#else
typedef int CUresult, CUdevice, CUdevice_attribute, CUfunction_attribute, CUstreamCaptureMode, CUjit_option;
typedef struct { char bytes[16]; } CUuuid;
typedef unsigned long long CUdeviceptr, cuuint64_t;
typedef struct ctx *CUcontext;
typedef struct mod *CUmodule;
typedef struct func *CUfunction;
typedef struct stream *CUstream;
typedef struct event *CUevent;
typedef struct graph *CUgraph;
typedef struct exec *CUgraphExec;
#endif

// Handles and addresses that the test expects: wider than 32 bits, all different.
#define H(n) (0x123400000000u + (n))
#define WANT(ok) do { if (!(ok)) return (CUresult)(10000 + __LINE__); } while (0)

CUresult cuInit(unsigned flags) { WANT(flags == 7); return 0; }
CUresult cuDriverGetVersion(int *v) { *v = 12345; return 0; }
CUresult cuGetErrorName(CUresult r, const char **s) { if (r == 999) return 1; WANT(r == 2); *s = "CUDA_ERROR_OUT_OF_MEMORY"; return 0; }
CUresult cuGetErrorString(CUresult r, const char **s) { if (r == 999) return 1; WANT(r == 2); *s = "out of memory"; return 0; }
CUresult cuDeviceGetCount(int *n) { *n = 3; return 0; }
CUresult cuDeviceGet(CUdevice *d, int i) { WANT(i == 2); *d = 42; return 0; }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { WANT(n == 16 && d == 42); memcpy(s, "stub device", 12); return 0; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) { WANT(a == 75 && d == 42); *v = -9; return 0; }
CUresult cuDeviceGetUuid_v2(CUuuid *u, CUdevice d) { WANT(d == 42); memcpy(u->bytes, "0123456789abcdef", 16); return 0; }
CUresult cuDeviceTotalMem_v2(size_t *n, CUdevice d) { WANT(d == 42); *n = H(22); return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { WANT(d == 42); *c = (CUcontext)H(1); return 0; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { WANT(d == 42); return 0; }
CUresult cuCtxSetCurrent(CUcontext c) { WANT(c == (CUcontext)H(1)); return 0; }
static char host[4096];
// The options and their values are in host memory, the log goes where they say.
CUresult cuModuleLoadDataEx(CUmodule *m, const void *p, unsigned n, CUjit_option *o, void **v) {
  WANT(!strcmp(p, "image") && n == 2 && (char *)o == host && (char *)v == host + 8);
  WANT(o[0] == 5 && o[1] == 6 && v[0] == host + 64 && v[1] == (void *)32);
  strcpy(v[0], "a log");
  *m = (CUmodule)H(2);
  return 0;
}
CUresult cuModuleUnload(CUmodule m) { WANT(m == (CUmodule)H(2)); return 0; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *s) { WANT(m == (CUmodule)H(2) && !strcmp(s, "kernel")); *f = (CUfunction)H(3); return 0; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) { WANT(f == (CUfunction)H(3) && a == 8 && v == 101376); return 0; }
CUresult cuMemGetInfo_v2(size_t *f, size_t *t) { *f = H(20), *t = H(21); return 0; }
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) { WANT(n == H(4)); *p = H(5); return 0; }
CUresult cuMemFree_v2(CUdeviceptr p) { WANT(p == H(5)); return 0; }
CUresult cuMemAllocHost_v2(void **p, size_t n) { WANT(n == sizeof host); *p = host; return 0; }
CUresult cuMemFreeHost(void *p) { WANT(p == host); return 0; }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t n, CUstream s) { WANT(to == H(5) && !strcmp(from, "data") && n == H(6) && s == (CUstream)H(7)); return 0; }
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t n, CUstream s) { WANT(from == H(5) && n == H(6) && s == (CUstream)H(7)); strcpy(to, "back"); return 0; }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) { WANT(to == H(8) && from == H(5) && n == H(6) && s == (CUstream)H(7)); return 0; }
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) { WANT(p == H(5) && v == 0xfe && n == H(6) && s == (CUstream)H(7)); return 0; }
CUresult cuStreamCreate(CUstream *s, unsigned f) { WANT(f == 1); *s = (CUstream)H(7); return 0; }
CUresult cuStreamDestroy_v2(CUstream s) { WANT(s == (CUstream)H(7)); return 0; }
CUresult cuStreamSynchronize(CUstream s) { WANT(s == (CUstream)H(7)); return 0; }
CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode m) { WANT(s == (CUstream)H(7) && m == 1); return 0; }
CUresult cuStreamEndCapture(CUstream s, CUgraph *g) { WANT(s == (CUstream)H(7)); *g = (CUgraph)H(10); return 0; }
CUresult cuEventCreate(CUevent *e, unsigned f) { WANT(f == 2); *e = (CUevent)H(9); return 0; }
CUresult cuEventDestroy_v2(CUevent e) { WANT(e == (CUevent)H(9)); return 0; }
CUresult cuEventRecord(CUevent e, CUstream s) { WANT(e == (CUevent)H(9) && s == (CUstream)H(7)); return 0; }
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { WANT(a == (CUevent)H(9) && b == (CUevent)H(11)); *ms = 1.5f; return 0; }
CUresult cuGraphInstantiateWithFlags(CUgraphExec *x, CUgraph g, unsigned long long f) { WANT(g == (CUgraph)H(10) && f == 0); *x = (CUgraphExec)H(12); return 0; }
CUresult cuGraphLaunch(CUgraphExec x, CUstream s) { WANT(x == (CUgraphExec)H(12) && s == (CUstream)H(7)); return 0; }
CUresult cuGraphExecDestroy(CUgraphExec x) { WANT(x == (CUgraphExec)H(12)); return 0; }
CUresult cuGraphDestroy(CUgraph g) { WANT(g == (CUgraph)H(10)); return 0; }
#ifndef WITHOUT_LAUNCH
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s, void **args, void **extra) {
  WANT(f == (CUfunction)H(3));
  WANT(gx == 0x80000001 && gy == 2 && gz == 3);
  WANT(bx == 256 && by == 5 && bz == 6);
  WANT(shared == 101376 && s == (CUstream)H(7));
  WANT(args == (void **)host && extra == 0);
  return 0;
}
#endif
