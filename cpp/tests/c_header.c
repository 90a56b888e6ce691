/* The interface is C: this file is compiled as such, and used from test_c_api.cpp. */
#include <ldm_engine.h>

int32_t open_from_c(const char* path);

int32_t open_from_c(const char* path) {
  ldm_engine_options options;
  ldm_engine_pipeline* pipeline = NULL;
  int32_t code = ldm_engine_options_init(&options, sizeof options);
  if (code == LDM_ENGINE_OK) code = ldm_engine_open(path, &options, &pipeline);
  ldm_engine_close(pipeline);
  return code;
}
