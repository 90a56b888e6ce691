# The libraries that the build needs; one that is missing is named with what installs it.
function(require found what remedy)
  if(NOT ${found})
    message(FATAL_ERROR "${what} was not found. ${remedy}")
  endif()
endfunction()

find_package(OpenVINO QUIET COMPONENTS Runtime)
require(OpenVINO_FOUND "OpenVINO"
  "It comes with the Python package: pip install openvino, then configure with\n  -DOpenVINO_DIR=$(python3 -c 'from openvino.utils import get_cmake_path; print(get_cmake_path())')")
find_package(nlohmann_json 3.9 QUIET)
require(nlohmann_json_FOUND "nlohmann/json" "On Debian: apt-get install nlohmann-json3-dev")
find_package(PNG QUIET)
require(PNG_FOUND "libpng" "On Debian: apt-get install libpng-dev")
find_package(OpenSSL QUIET)
require(OPENSSL_FOUND "OpenSSL's libcrypto" "On Debian: apt-get install libssl-dev")
find_package(Threads REQUIRED)

find_library(UTF8PROC_LIBRARY utf8proc)
find_path(UTF8PROC_INCLUDE_DIR utf8proc.h)
foreach(part UTF8PROC_LIBRARY UTF8PROC_INCLUDE_DIR)
  require(${part} "utf8proc" "On Debian: apt-get install libutf8proc-dev")
endforeach()
add_library(utf8proc UNKNOWN IMPORTED)
set_target_properties(utf8proc PROPERTIES
  IMPORTED_LOCATION ${UTF8PROC_LIBRARY}
  INTERFACE_INCLUDE_DIRECTORIES ${UTF8PROC_INCLUDE_DIR})

if(LDM_ENGINE_TESTS)
  find_package(doctest QUIET)
  require(doctest_FOUND "doctest"
    "On Debian: apt-get install doctest-dev; or configure with -DLDM_ENGINE_TESTS=OFF")
endif()

if(PADDLE_INFERENCE_DIR)
  add_library(paddle_inference SHARED IMPORTED)
  set_target_properties(paddle_inference PROPERTIES
    IMPORTED_LOCATION ${PADDLE_INFERENCE_DIR}/paddle/lib/libpaddle_inference.so
    INTERFACE_INCLUDE_DIRECTORIES ${PADDLE_INFERENCE_DIR}/paddle/include)
endif()
