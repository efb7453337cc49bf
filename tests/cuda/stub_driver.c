/* A CUDA driver without a device: memory is the host's, and kernels are noted, not run.

   Built as libcuda.so.1, it lets numba-cuda and cuda.bindings run their host code on a machine without a GPU, so that
   tests can read what reaches the driver: calls, grids, parameters.  Every call is counted and logged by name; a call
   that has been told to fail gives its error code instead.  It computes nothing.

   There are two devices, of different kinds.  Handles say which one they belong to, and a kernel runs where it was
   loaded, on a stream of that device, with memory of that device and no more shared memory than was asked for.  */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uintptr_t H;
#define API __attribute__((visibility("default")))
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };
enum { DEVICES = 2, CONTEXT = 0xC0, FREE_SHARED = 48 << 10 };
static const struct { int major, minor, multiprocessors, shared; } facts[DEVICES] = {{9, 0, 132, 232448}, {8, 6, 82, 101376}};

static char log_[1 << 20];
static size_t logged;
static char failing[64];
static int code, after;
static _Atomic size_t used;
static size_t total = (size_t)80 << 30;
static __thread H current[16];
static __thread int depth;

static atomic_flag saying = ATOMIC_FLAG_INIT; /* threads call at once */
static void say(const char *name) {
    size_t n = strlen(name);
    while (atomic_flag_test_and_set(&saying)) {}
    if (logged + n + 2 > sizeof log_) logged = 0;
    memcpy(log_ + logged, name, n);
    log_[logged + n] = '\n';
    log_[logged += n + 1] = 0;
    atomic_flag_clear(&saying);
}
static R called(const char *name) {
    if (code && !strcmp(name, failing) && after-- <= 0) return code;
    return SUCCESS;
}
#define CALL(name) do { say(#name); R r_ = called(#name); if (r_) return r_; } while (0)

API void stub_fail(const char *name, int with, int calls_before) { strncpy(failing, name, 63); code = with; after = calls_before; }
API const char *stub_log(void) { return log_; }
API void stub_clear(void) { logged = 0; log_[0] = 0; }
API void stub_memory(size_t bytes) { total = used + bytes; } /* that are free */

/* The last launches, oldest first. */
typedef struct { H f, stream; unsigned grid[3], block[3], shared; uint64_t words[64]; } Launch;
static Launch launches[256];
static _Atomic unsigned count;
API unsigned stub_launches(void) { return count; }
API Launch *stub_launch(unsigned i) { return &launches[i % 256]; }
API void stub_forget(void) { count = 0; }
static int parameters; /* of the kernels launched: so many words are read */
API void stub_parameters(int n) { parameters = n; }

API R cuInit(unsigned f) { CALL(cuInit); return 0; }
API R cuDriverGetVersion(int *v) { *v = 13000; return 0; }
static int here(void) { return depth ? (int)(current[depth - 1] - CONTEXT) : 0; }
static H handle(void) { static H last = 0x1000; return (last += 16) + 8 * here(); }
static int owner(H h) { return h >> 3 & 1; }

API R cuDeviceGetCount(int *n) { *n = DEVICES; return 0; }
API R cuDeviceGet(int *d, int n) { *d = n; return 0; }
API R cuDeviceGetName(char *s, int n, int d) { snprintf(s, n, d ? "Stub %d" : "Stub", d); return 0; }
API R cuDeviceGetUuid(char *u, int d) { memset(u, d, 16); return 0; }
API R cuDeviceTotalMem(size_t *b, int d) { *b = total; return 0; }
API R cuDeviceGetAttribute(int *v, int a, int d) {
    *v = a == 75 ? facts[d].major : a == 76 ? facts[d].minor : a == 16 ? facts[d].multiprocessors
       : a == 97 ? facts[d].shared : a == 1 ? 1024 : a == 13 ? 1980000 : a == 115 ? 1 : 0;
    return 0;
}
API R cuDevicePrimaryCtxRetain(H *c, int d) { CALL(cuDevicePrimaryCtxRetain); *c = CONTEXT + d; return 0; }
API R cuDevicePrimaryCtxRelease(int d) { return 0; }
API R cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { *f = 0; *a = 1; return 0; }
API R cuCtxGetCurrent(H *c) { CALL(cuCtxGetCurrent); *c = depth ? current[depth - 1] : 0; return 0; }
API R cuCtxSetCurrent(H c) { CALL(cuCtxSetCurrent); if (!depth) depth = 1; current[depth - 1] = c; if (!c) depth--; return 0; }
API R cuCtxPushCurrent(H c) { CALL(cuCtxPushCurrent); current[depth++] = c; return 0; }
API R cuCtxPopCurrent(H *c) { CALL(cuCtxPopCurrent); *c = depth ? current[--depth] : 0; return 0; }
API R cuCtxGetDevice(int *d) { CALL(cuCtxGetDevice); *d = here(); return depth ? 0 : INVALID_CONTEXT; }
API R cuCtxGetId(H c, uint64_t *i) { *i = 1 + c - CONTEXT; return 0; }
API R cuCtxSynchronize(void) { CALL(cuCtxSynchronize); return 0; }
API R cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR"; return 0; }
API R cuGetErrorString(int e, const char **s) { *s = "an error"; return 0; }

API R cuMemGetInfo(size_t *f, size_t *t) { CALL(cuMemGetInfo); *f = total - used; *t = total; return 0; }
API R cuMemPoolCreate(H *pool, const void *facts) { CALL(cuMemPoolCreate); *pool = 0xB00; return 0; }
API R cuMemPoolSetAttribute(H pool, int a, void *v) { CALL(cuMemPoolSetAttribute); return 0; }
typedef struct { H begin, end; int device; } Place;
static Place places[4096];
static R allocate(H *p, size_t n) {
    if (used + n > total) return OUT_OF_MEMORY;
    size_t *room;
    if (posix_memalign((void **)&room, 256, n + 256)) return OUT_OF_MEMORY;
    *room = n, used += n, *p = (H)room + 256;
    for (int i = 0; i < 4096; i++) if (!places[i].begin) { places[i] = (Place){*p, *p + n, here()}; break; }
    return 0;
}
static void release(H p) {
    for (int i = 0; i < 4096; i++) if (places[i].begin == p) places[i].begin = places[i].end = 0;
    if (p) { used -= *(size_t *)(p - 256); free((void *)(p - 256)); }
}
API R cuMemAlloc(H *p, size_t n) { CALL(cuMemAlloc); return allocate(p, n); }
API R cuMemFree(H p) { CALL(cuMemFree); release(p); return 0; }
API R cuMemAllocFromPoolAsync(H *p, size_t n, H pool, H q) { CALL(cuMemAllocFromPoolAsync); return allocate(p, n); }
API R cuMemFreeAsync(H p, H q) { CALL(cuMemFreeAsync); release(p); return 0; }
API R cuMemsetD8(H d, unsigned char v, size_t n) { CALL(cuMemsetD8); memset((void *)d, v, n); return 0; }
API R cuTensorMapEncodeTiled(void *map) { CALL(cuTensorMapEncodeTiled); return (uintptr_t)map % 64 ? INVALID_VALUE : 0; }
API R cuMemHostAlloc(void **p, size_t n, unsigned f) { CALL(cuMemHostAlloc); return posix_memalign(p, 256, n + 1) ? OUT_OF_MEMORY : 0; }
API R cuMemFreeHost(void *p) { CALL(cuMemFreeHost); free(p); return 0; }
API R cuMemcpyHtoD(H d, void *s, size_t n) { CALL(cuMemcpyHtoD); memcpy((void *)d, s, n); return 0; }
API R cuMemcpyDtoH(void *d, H s, size_t n) { CALL(cuMemcpyDtoH); memcpy(d, (void *)s, n); return 0; }
API R cuMemcpyDtoD(H d, H s, size_t n) { CALL(cuMemcpyDtoD); memcpy((void *)d, (void *)s, n); return 0; }
API R cuMemcpyHtoDAsync(H d, void *s, size_t n, H q) { CALL(cuMemcpyHtoDAsync); memcpy((void *)d, s, n); return 0; }
API R cuMemcpyDtoHAsync(void *d, H s, size_t n, H q) { CALL(cuMemcpyDtoHAsync); memcpy(d, (void *)s, n); return 0; }
API R cuMemcpyDtoDAsync(H d, H s, size_t n, H q) { CALL(cuMemcpyDtoDAsync); memcpy((void *)d, (void *)s, n); return 0; }

API R cuStreamCreate(H *q, unsigned f) { CALL(cuStreamCreate); *q = handle(); return 0; }
API R cuStreamDestroy(H q) { CALL(cuStreamDestroy); return 0; }
API R cuStreamSynchronize(H q) { CALL(cuStreamSynchronize); return 0; }
API R cuStreamWaitEvent(H q, H e, unsigned f) { CALL(cuStreamWaitEvent); return 0; }
API R cuStreamGetCtx(H q, H *c) { *c = CONTEXT + owner(q); return 0; }
API R cuStreamBeginCapture(H q, int mode) { CALL(cuStreamBeginCapture); return 0; }
API R cuStreamEndCapture(H q, H *g) { CALL(cuStreamEndCapture); *g = handle(); return 0; }
API R cuGraphInstantiateWithFlags(H *x, H g, uint64_t f) { CALL(cuGraphInstantiate); *x = handle(); return 0; }
API R cuGraphLaunch(H x, H q) { CALL(cuGraphLaunch); return 0; }
API R cuGraphUpload(H x, H q) { CALL(cuGraphUpload); return 0; }
API R cuGraphDestroy(H g) { CALL(cuGraphDestroy); return 0; }
API R cuGraphExecDestroy(H x) { CALL(cuGraphExecDestroy); return 0; }
API R cuEventCreate(H *e, unsigned f) { CALL(cuEventCreate); *e = handle(); return 0; }
API R cuEventDestroy(H e) { CALL(cuEventDestroy); return 0; }
API R cuEventRecord(H e, H q) { CALL(cuEventRecord); return 0; }
API R cuEventSynchronize(H e) { CALL(cuEventSynchronize); return 0; }
API R cuEventQuery(H e) { CALL(cuEventQuery); return 0; }
API R cuEventElapsedTime(float *ms, H a, H b) { *ms = 1; return 0; }

API R cuLibraryLoadData(H *l, const void *c, void *jo, void *jv, unsigned nj, void *lo, void *lv, unsigned nl) {
    CALL(cuLibraryLoadData); *l = handle(); return 0;
}
API R cuLibraryUnload(H l) { CALL(cuLibraryUnload); return 0; }
API R cuLibraryGetKernel(H *k, H l, const char *name) { CALL(cuLibraryGetKernel); *k = handle(); return 0; }
API R cuKernelGetFunction(H *f, H k) { CALL(cuKernelGetFunction); *f = k + 1; return 0; }
API R cuKernelGetAttribute(int *v, int a, H k, int d) { *v = a == 0 ? 1024 : 32; return 0; }
API R cuKernelSetAttribute(int a, int v, H k, int d) { CALL(cuKernelSetAttribute); return 0; }
API R cuKernelGetParamInfo(H k, size_t i, size_t *o, size_t *s) { if (i >= (size_t)parameters) return INVALID_VALUE; *o = 8 * i; *s = 8; return 0; }
API R cuFuncGetAttribute(int *v, int a, H f) { *v = 32; return 0; }
static struct { H f; unsigned shared; } allowed[256];
static unsigned *allowance(H f) {
    int i = 0;
    while (i < 255 && allowed[i].f && allowed[i].f != f) i++;
    if (!allowed[i].f) allowed[i].f = f, allowed[i].shared = FREE_SHARED;
    return &allowed[i].shared;
}
API R cuFuncSetAttribute(H f, int a, int v) {
    CALL(cuFuncSetAttribute);
    if (v > facts[owner(f)].shared) return INVALID_VALUE;
    *allowance(f) = v;
    return 0;
}
static R launch(H f, const unsigned *grid, const unsigned *block, unsigned shared, H q, void **params) {
    Launch *l = &launches[count++ % 256];
    l->f = f, l->stream = q, l->shared = shared;
    memcpy(l->grid, grid, 12), memcpy(l->block, block, 12);
    for (int i = 0; i < parameters && i < 64; i++) l->words[i] = *(uint64_t *)params[i];
    return 0;
}
API R cuLaunchKernel(H f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned s, H q, void **p, void **x) {
    CALL(cuLaunchKernel);
    unsigned grid[3] = {a, b, c}, block[3] = {d, e, g};
    if (!depth) return INVALID_CONTEXT;
    if (owner(f) != here() || (q && owner(q) != here())) return INVALID_HANDLE;
    if (s > *allowance(f)) return INVALID_VALUE;
    for (int i = 0; i < parameters && i < 64; i++)
        for (int j = 0; j < 4096; j++)
            if (*(H *)p[i] >= places[j].begin && *(H *)p[i] < places[j].end && places[j].device != here())
                return ILLEGAL_ADDRESS;
    return launch(f, grid, block, s, q, p);
}
typedef struct { unsigned grid[3], block[3], shared; H stream; void *attrs; unsigned n; } Config;
API R cuLaunchKernelEx(const Config *c, H f, void **p, void **x) {
    CALL(cuLaunchKernelEx);
    return launch(f, c->grid, c->block, c->shared, c->stream, p);
}
/* Linking: what comes out is not read, since cuLibraryLoadData takes anything. */
API R cuLinkCreate(unsigned n, void *o, void *v, H *s) { CALL(cuLinkCreate); *s = handle(); return 0; }
API R cuLinkAddData(H s, int kind, void *d, size_t n, const char *name, unsigned no, void *o, void *v) { CALL(cuLinkAddData); return 0; }
API R cuLinkComplete(H s, void **image, size_t *n) { CALL(cuLinkComplete); *image = "\x7f" "ELF"; *n = 4; return 0; }
API R cuLinkDestroy(H s) { CALL(cuLinkDestroy); return 0; }

static R missing(void) { say("missing"); return NOT_SUPPORTED; }

#include <dlfcn.h>
API R cuGetProcAddress_v2(const char *name, void **p, int version, uint64_t flags, int *status) {
    Dl_info me;
    dladdr((void *)stub_fail, &me);
    void *lib = dlopen(me.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    void *found = lib ? dlsym(lib, name) : 0;
    if (!strcmp(name, "cuGraphInstantiate")) found = (void *)cuGraphInstantiateWithFlags;
    if (!strcmp(name, "cuGetProcAddress")) found = (void *)cuGetProcAddress_v2;
    *p = found ? found : (void *)missing;
    if (status) *status = 0;
    return 0;
}
API R cuGetProcAddress(const char *name, void **p, int version, uint64_t flags) { return cuGetProcAddress_v2(name, p, version, flags, 0); }
