// The denoising loop over one UNet program: guidance and a weighted sum, in place in its tensors.
#include "sampling/loop.hpp"

#include <algorithm>

#include "machine/clock.hpp"

namespace ldm_engine {
namespace {

/// u + g (t - u), as the reference orders it, for one image.
void guide(const float* unconditional, float* prediction, float guidance, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    prediction[i] = (prediction[i] - unconditional[i]) * guidance + unconditional[i];
  }
}

/// What the history keeps of one call.
void keep(float* m, const float* latents, const float* prediction, const BatchRow& row,
          std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) m[i] = prediction[i] * row.q;
  if (row.p != 0) {
    for (std::size_t i = 0; i < count; ++i) m[i] += latents[i] * row.p;
  }
}

void scale(float* latents, float weight, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) latents[i] *= weight;
}

void add(float* latents, const float* values, float weight, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) latents[i] += values[i] * weight;
}

/// Restore what is known of the latents of one image, after the step `index`.
void restore(float* latents, const Known& known, std::size_t index, std::size_t image,
             std::size_t size, std::size_t images) {
  const auto [of_image, of_noise] = known.levels[index];
  const std::size_t cells = known.keep.size() / images;
  for (std::size_t i = 0; i < size; ++i) {
    if (!known.keep[image * cells + i % cells]) continue;
    const std::size_t at = image * size + i;
    latents[i] = known.image[at] * of_image + known.noise[at] * of_noise;
  }
}

}  // namespace

LoopBuffers::LoopBuffers(const std::vector<BatchRow>& rows, std::size_t images, std::size_t size)
    : fresh_noise(size) {
  std::size_t length = 1;
  for (const BatchRow& row : rows) {
    for (const std::vector<float>& b : row.b) length = std::max(length, b.size());
  }
  history.assign(length, std::vector<float>(images * size));
  steps_ms.reserve(rows.size());
}

int run_loop(Program& unet, const LoopInputs& inputs, LoopBuffers& buffers) {
  const Tensor& latents = unet.input("latents");
  const Tensor& time_shift = unet.input("time_shift");
  const Tensor& noise_pred = unet.output("noise_pred");
  const std::size_t images = inputs.noise.size();
  const std::size_t size = latents.count() / images;
  const std::size_t length = buffers.history.size();
  for (std::size_t index = 0; index < inputs.rows.size(); ++index) {
    const Clock clock;
    const BatchRow& row = inputs.rows[index];
    std::copy_n(inputs.time_shift + index * time_shift.count(), time_shift.count(),
                time_shift.floats());
    unet.run();
    for (std::size_t image = 0; image < images; ++image) {
      const std::size_t offset = image * size;
      float* const x = latents.floats() + offset;
      float* prediction = noise_pred.floats() + offset;
      if (!inputs.guidance.empty()) {
        const float* const unconditional = prediction;
        prediction += images * size;
        guide(unconditional, prediction, inputs.guidance[image], size);
      }
      keep(buffers.history[index % length].data() + offset, x, prediction, row, size);
      scale(x, row.a, size);
      const std::vector<float>& b = row.b[image];
      for (std::size_t age = 0; age < b.size(); ++age) {
        add(x, buffers.history[(index + length - age) % length].data() + offset, b[age], size);
      }
      if (row.s[image] > 0) {
        inputs.noise[image].fill(buffers.fresh_noise.data(), size);
        add(x, buffers.fresh_noise.data(), row.s[image], size);
      }
      if (inputs.known) restore(x, *inputs.known, index, image, size, images);
    }
    buffers.steps_ms.push_back(clock.elapsed_ms());
    const int done = static_cast<int>(index);
    if (inputs.on_step_end &&
        inputs.on_step_end({done, row.timestep, latents.floats(), latents.count(),
                            static_cast<int>(inputs.rows.size())})) {
      return done + 1;
    }
  }
  return static_cast<int>(inputs.rows.size());
}

}  // namespace ldm_engine
