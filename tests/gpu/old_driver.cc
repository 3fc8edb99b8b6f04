// A stand-in for libcuda.so.1 of an NVIDIA driver that knows CUDA 11.8: older than any minimo takes.
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) {
  *version = 11080;
  return 0;
}
}
