# Where things are installed, as components: `runtime` is library and command, `development` headers
# and package, `standalone` the libraries that a machine without any of this needs beside `runtime`.

# RPATH rather than RUNPATH: it also finds the libraries that our libraries need.
target_link_options(ldm_engine PRIVATE -Wl,--disable-new-dtags)
target_link_options(ldm-generate PRIVATE -Wl,--disable-new-dtags)
set_target_properties(ldm_engine PROPERTIES
  INSTALL_RPATH "$ORIGIN" INSTALL_RPATH_USE_LINK_PATH ON)
set_target_properties(ldm-generate PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

install(TARGETS ldm_engine EXPORT ldm_engine-targets
  LIBRARY COMPONENT runtime NAMELINK_COMPONENT development)
install(TARGETS ldm-generate COMPONENT runtime)
install(FILES ../LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ldm_engine)
install(EXPORT ldm_engine-targets NAMESPACE ldm_engine:: DESTINATION ${package_dir}
  COMPONENT development)
configure_package_config_file(cmake/ldm_engine-config.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/ldm_engine-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ldm_engine-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/ldm_engine-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/ldm_engine-config-version.cmake
  DESTINATION ${package_dir} COMPONENT development)

# OpenVINO loads its plugin (intel_cpu or arm_cpu) and its reader of graphs by name, from the folder
# that it lies in, and TBB its allocator.
get_target_property(openvino_library openvino::runtime LOCATION)
get_filename_component(openvino_libraries ${openvino_library} DIRECTORY)
file(GLOB standalone_modules
  ${openvino_libraries}/libopenvino_*_cpu_plugin.so
  ${openvino_libraries}/libopenvino_ir_frontend.so*
  ${openvino_libraries}/libtbbmalloc.so*)
# Where the Python package has its licences.
file(GLOB openvino_licences ${openvino_libraries}/../../openvino-*.dist-info/licenses)
# A header that is compiled into ours: its package belongs to the tree too.
find_file(compiled_in nlohmann/json.hpp NO_CACHE)
configure_file(cmake/standalone.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/standalone.cmake.in @ONLY)
file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/standalone-$<CONFIG>.cmake
  INPUT ${CMAKE_CURRENT_BINARY_DIR}/standalone.cmake.in)
install(SCRIPT ${CMAKE_CURRENT_BINARY_DIR}/standalone-$<CONFIG>.cmake
  COMPONENT standalone EXCLUDE_FROM_ALL)
