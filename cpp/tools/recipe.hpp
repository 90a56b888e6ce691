// The recipe that an image file carries: all that is needed to render it again, pixel for pixel.
// Its twin is engine/ldm_engine/sampling/recipes.py, and `ldm-engine generate --from-image` reads what this writes.
#pragma once

#include <ldm_engine/pipeline.hpp>
#include <string>
#include <vector>

/// All that is needed to render an image again.
struct Recipe {
  std::string prompt;
  std::string negative_prompt;
  std::uint32_t seed = 0;
  int num_inference_steps = 0;
  double guidance_scale = 0;
  double eta = 0;
  int height = 0;
  int width = 0;
  int batch_size = 1;  ///< rows of the UNet; some runtimes round differently with another count
};

/// The texts of a PNG file made with `recipe` by the pipeline of these facts.
std::vector<ldm_engine::ImageText> recipe_texts(const Recipe& recipe, const ldm_engine::Info& info);

/// Letters, digits and hyphens that remind of `text`; safe as a file name anywhere.
std::string slug(const std::string& text);
