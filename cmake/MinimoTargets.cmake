# One static library per folder with its public dependencies; tests beside the sources.
#   minimo_library(ops SOURCES a.cc b.cc DEPS minimo_tensor fmt::fmt)   -> target minimo_ops
#   minimo_test(rms_norm_test SOURCES rms_norm_test.cc DEPS minimo_ops [LABELS slow] [TIMEOUT 60])

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

option(MINIMO_TESTS "Build the tests" ON)
option(MINIMO_WERROR "Warnings are errors" ON)
set(MINIMO_SANITIZE "" CACHE STRING "address,undefined or thread")

# For C++ alone: nvcc has flags of its own (MinimoCuda.cmake).
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall$<SEMICOLON>-Wextra$<SEMICOLON>-Wno-missing-field-initializers>)
# g++ 12 reports false maybe-uninitialized and dangling cases inside std::optional and std::regex at -O2.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()
if(MINIMO_WERROR)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(MINIMO_SANITIZE)
  foreach(option -fsanitize=${MINIMO_SANITIZE} -fno-omit-frame-pointer -g)
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:${option}>)
  endforeach()
  add_link_options(-fsanitize=${MINIMO_SANITIZE})
endif()

# Highway's targets that only cost compile time, between SSE2 and AVX2; and SVE, whose vectors have no size that a
# compiler knows, so that there are no arrays of them to hold tiles of sums.
set(MINIMO_HWY_TARGETS
  "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)")

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_package(fmt REQUIRED)
find_package(Threads REQUIRED)
if(MINIMO_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

function(minimo_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  set(target minimo_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  target_link_libraries(${target} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
endfunction()

# Tests run from the repository root; those that read more than models/ find ../shared there
# (tests/support/shared.h).
function(minimo_test name)
  if(NOT MINIMO_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} minimo_repo_dir GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} --gtest_brief=1 WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# A test of `ranks` MPI processes on this machine, however few cores it has; passes when rank 0 prints "ok".
function(minimo_mpi_test name ranks)
  add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} --oversubscribe --bind-to none ${ARGN}
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS mpi
    PASS_REGULAR_EXPRESSION "(^|\n)ok\n" FAIL_REGULAR_EXPRESSION "rank [0-9]+:"
    ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    ENVIRONMENT_MODIFICATION OMPI_MCA_btl_vader_single_copy_mechanism=set:none)
endfunction()
