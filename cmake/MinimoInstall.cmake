# The library for other programs: one static archive of all rooms below the server, the public headers, the shipped nano
# models, and a package for find_package(minimo). `cmake --install build --component library` installs it alone.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
find_package(spdlog REQUIRED)
find_package(hwy REQUIRED)

set(MINIMO_LIBRARY_ROOMS base tensor spec kv ops comm checkpoint layers models cuda sampling grammar text sched engine)
set(minimo_objects)
foreach(room IN LISTS MINIMO_LIBRARY_ROOMS)
  if(TARGET minimo_${room})
    get_target_property(type minimo_${room} TYPE)
    if(type STREQUAL "STATIC_LIBRARY")
      list(APPEND minimo_objects $<TARGET_OBJECTS:minimo_${room}>)
    endif()
  endif()
endforeach()

add_library(minimo_archive STATIC ${minimo_objects})
set_target_properties(minimo_archive PROPERTIES OUTPUT_NAME minimo EXPORT_NAME minimo LINKER_LANGUAGE CXX
  ARCHIVE_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
target_compile_features(minimo_archive INTERFACE cxx_std_20)
target_include_directories(minimo_archive INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(minimo_archive INTERFACE
  fmt::fmt spdlog::spdlog hwy::hwy Threads::Threads pcre2-8 utf8proc ${CMAKE_DL_LIBS})
if(MINIMO_HAVE_CUDA)
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(minimo_archive INTERFACE CUDA::cudart_static)
endif()

install(TARGETS minimo_archive EXPORT minimo ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(DIRECTORY include/minimo DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
install(DIRECTORY models DESTINATION ${CMAKE_INSTALL_DATADIR}/minimo COMPONENT library)
install(EXPORT minimo FILE minimoTargets.cmake NAMESPACE minimo:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minimo
  COMPONENT library)
configure_package_config_file(cmake/minimoConfig.cmake.in ${PROJECT_BINARY_DIR}/minimoConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minimo)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/minimoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/minimoConfig.cmake ${PROJECT_BINARY_DIR}/minimoConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minimo COMPONENT library)
