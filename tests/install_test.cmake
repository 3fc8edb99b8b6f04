# Installs the library, builds the example against the installed package alone, and runs it.
#   cmake -DBUILD=... -DSOURCE=... -P install_test.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${ARGN}: exit code ${code}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(work ${BUILD}/install_test)
file(REMOVE_RECURSE ${work})
run(${CMAKE_COMMAND} --install ${BUILD} --component library --prefix ${work}/prefix)
run(${CMAKE_COMMAND} -G Ninja -S ${SOURCE}/examples -B ${work}/build -DCMAKE_PREFIX_PATH=${work}/prefix
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS=${FLAGS})
run(${CMAKE_COMMAND} --build ${work}/build)

set(stream ${work}/build/stream)
foreach(model nano-minimax-m2 nano-mimo-v2-flash)
  run(${stream} ${work}/prefix/share/minimo/models/${model} "The capital of France is" 20)
  string(REGEX MATCH "\\[(stop|length|abort) after [0-9]+ tokens\\]" ended "${output}")
  if(ended STREQUAL "")
    message(FATAL_ERROR "no end in the output of the example:\n${output}")
  endif()
  message(STATUS "${model}: ${ended}")
endforeach()
run(${stream} ${work}/prefix/share/minimo/models/nano-minimax-m2 "One two three" 3)
# Cancelled after 3 tokens, seen by a thread that shares the cores with the engine: where all of them are busy it may wait
# for a slice of the system's scheduler, 3 to 4 ms, in which this model says some 40 tokens; far from all that it would say.
if(NOT output MATCHES "abort after ([3-9]|[1-9][0-9]) tokens")
  message(FATAL_ERROR "the example did not cancel after 3 tokens:\n${output}")
endif()
execute_process(COMMAND ${stream} /nowhere/at/all hello RESULT_VARIABLE code OUTPUT_QUIET ERROR_VARIABLE output)
if(NOT code EQUAL 1 OR NOT output MATCHES "/nowhere/at/all")
  message(FATAL_ERROR "a missing model should end with code 1 and its name: ${code}\n${output}")
endif()
