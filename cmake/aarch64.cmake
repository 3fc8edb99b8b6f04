# Cross-compiles for 64-bit Arm with Debian's g++-12-aarch64-linux-gnu; tests run under qemu. tools/aarch64_check.sh does
# all of it. MINIMO_ARM_ROOT: a folder with the libraries (arm64 packages, unpacked). MINIMO_ARM_CPU: what qemu plays.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++-12)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MINIMO_ARM_ROOT)

set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH ${MINIMO_ARM_ROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_DISABLE_FIND_PACKAGE_MPI ON)  # this machine's compiler wrappers would name its own libraries
set(MINIMO_CUDA OFF CACHE STRING "")

set(arm_libraries ${MINIMO_ARM_ROOT}/usr/lib/aarch64-linux-gnu)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L${arm_libraries} -Wl,-rpath-link,${arm_libraries}")
set(MINIMO_ARM_CPU max CACHE STRING "qemu's -cpu: cortex-a72 (no dot products), neoverse-n1, max")
set(CMAKE_CROSSCOMPILING_EMULATOR
  qemu-aarch64-static -cpu ${MINIMO_ARM_CPU} -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=${arm_libraries})
