// One call of an encoder, and the UNet's shapes: how programs are fed before the loop begins.
// Its twin is engine/ldm_engine/sampling/encoding.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/contract.hpp"
#include "ldm_engine/image.hpp"
#include "runtimes/base.hpp"
#include "sampling/tokenizer.hpp"

namespace ldm_engine {

/// The ids [T] of one text. A text that is cut off adds to `warnings`.
std::vector<std::int64_t> ids_of(const Tokenizer& tokenizer, const ModelInfo& model,
                                 const std::string& text, std::vector<std::string>& warnings);

/// Keys and values [T, .] of one text's ids, by the program `text_encoder`.
std::vector<float> encode_text(Program& program, const ModelInfo& model,
                               const std::vector<std::int64_t>& ids);

/// `time_shift` [S, .] of a schedule, by the program `time_encoder`.
std::vector<float> encode_time(Program& program, const ModelInfo& model,
                               const std::vector<int>& timesteps);

/// Latents [C, h, w] of one picture, by the program `vae_encoder`.
std::vector<float> encode_picture(Program& program, const ModelInfo& model, const Image& picture);

/// What `unet` is allocated for: `latents` [B, C, h, w] and B or 2B rows of text.
Shapes unet_shapes(const ModelInfo& model, const Shape& latents, std::size_t rows);

}  // namespace ldm_engine
