// The DDIM loop over one UNet program: guidance, update and noise, in place in its tensors.
#include "loop.hpp"

#include <algorithm>

#include "clock.hpp"

namespace ldm_engine {
namespace {

/// u + g (t - u), as the reference orders it, for one image.
void guide(const float* unconditional, float* prediction, float guidance, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    prediction[i] = (prediction[i] - unconditional[i]) * guidance + unconditional[i];
  }
}

void update(float* latents, const float* prediction, float latents_scale, float noise_pred_scale,
            std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    latents[i] = latents[i] * latents_scale + prediction[i] * noise_pred_scale;
  }
}

void add_noise(float* latents, const float* noise, float sigma, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) latents[i] += noise[i] * sigma;
}

}  // namespace

int run_loop(Program& unet, const LoopInputs& inputs) {
  const Tensor& latents = unet.input("latents");
  const Tensor& time_shift = unet.input("time_shift");
  const Tensor& noise_pred = unet.output("noise_pred");
  const std::size_t images = inputs.noise.size();
  const std::size_t size = latents.count() / images;
  const bool is_guided = !inputs.guidance.empty();
  for (std::size_t index = 0; index < inputs.steps.size(); ++index) {
    const Clock clock;
    const BatchStep& step = inputs.steps[index];
    std::copy_n(inputs.time_shift + index * time_shift.count(), time_shift.count(),
                time_shift.floats());
    unet.run();
    for (std::size_t image = 0; image < images; ++image) {
      float* const x = latents.floats() + image * size;
      float* prediction = noise_pred.floats() + image * size;
      if (is_guided) {
        const float* const unconditional = prediction;
        prediction += images * size;
        guide(unconditional, prediction, inputs.guidance[image], size);
      }
      update(x, prediction, step.latents_scale, step.noise_pred_scale[image], size);
      if (step.sigma[image] > 0) {
        inputs.noise[image].fill(inputs.fresh_noise.data(), size);
        add_noise(x, inputs.fresh_noise.data(), step.sigma[image], size);
      }
    }
    inputs.steps_ms.push_back(clock.elapsed_ms());
    const int done = static_cast<int>(index);
    if (inputs.on_step_end &&
        inputs.on_step_end({done, step.timestep, latents.floats(), latents.count()})) {
      return done + 1;
    }
  }
  return static_cast<int>(inputs.steps.size());
}

}  // namespace ldm_engine
