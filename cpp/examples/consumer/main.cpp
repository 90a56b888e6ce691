#include <ldm_engine/pipeline.hpp>

int main(int count, char** arguments) {
  ldm_engine::Pipeline pipe{count > 1 ? arguments[1] : "demo-output/bundle"};
  ldm_engine::Request request;
  request.guidance_scale = 2.0;
  request.seed = 0;
  const auto result = pipe.generate({"a small red circle on the left"}, request);
  result.images[0].save_png("picture.png");
}
