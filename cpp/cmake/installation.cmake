# Where things are installed: library, headers, command and package; and, as the component
# `standalone`, the libraries that a machine without any of this needs beside them.

# RPATH rather than RUNPATH: it also finds the libraries that our libraries need.
target_link_options(ldm_engine PRIVATE -Wl,--disable-new-dtags)
target_link_options(ldm-generate PRIVATE -Wl,--disable-new-dtags)
set_target_properties(ldm_engine PROPERTIES
  INSTALL_RPATH "$ORIGIN" INSTALL_RPATH_USE_LINK_PATH ON)
set_target_properties(ldm-generate PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

install(TARGETS ldm_engine EXPORT ldm_engine-targets)
install(TARGETS ldm-generate)
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

# OpenVINO loads its plugin and its reader of graphs by name, from the folder that it lies in.
get_target_property(openvino_library openvino::runtime LOCATION)
get_filename_component(openvino_libraries ${openvino_library} DIRECTORY)
file(GLOB openvino_modules
  ${openvino_libraries}/libopenvino_intel_cpu_plugin.so
  ${openvino_libraries}/libopenvino_ir_frontend.so*)
install(CODE "
  file(GET_RUNTIME_DEPENDENCIES
    LIBRARIES $<TARGET_FILE:ldm_engine> ${openvino_modules}
    EXECUTABLES $<TARGET_FILE:ldm-generate>
    RESOLVED_DEPENDENCIES_VAR needed
    DIRECTORIES ${openvino_libraries}
    # The C library belongs to the machine.
    PRE_EXCLUDE_REGEXES \"^ld-linux\" \"^lib(c|m|dl|rt|pthread)\\\\.so\" \"^libldm_engine\")
  foreach(file IN LISTS needed ITEMS ${openvino_modules})
    file(INSTALL \${file} DESTINATION \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}
      FOLLOW_SYMLINK_CHAIN)
  endforeach()
" COMPONENT standalone EXCLUDE_FROM_ALL)
