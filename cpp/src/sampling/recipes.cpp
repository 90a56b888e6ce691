// The recipe that an image file carries: all that is needed to render it again, pixel for pixel.
#include "sampling/recipes.hpp"

#include <nlohmann/json.hpp>

#include "ldm_engine/pipeline.hpp"
#include "sampling/settings.hpp"

namespace ldm_engine {

std::vector<ImageText> recipe_texts(const std::string& prompt, const Request& request,
                                    const Info& info, int batch_size) {
  nlohmann::ordered_json recipe;
  for (const Setting& setting : settings()) {
    const bool is_prompt = std::holds_alternative<std::monostate>(setting.field);
    const Json value = is_prompt ? Json(prompt) : setting_value(setting, request);
    if (!setting.is_later || value != setting_value(setting, {})) recipe[setting.name] = value;
  }
  recipe.update({{"model", info.source},
                 {"bundle", info.digest},
                 {"runtime", info.runtime},
                 {"precision", info.precision},
                 {"threads", info.threads},
                 {"batch_size", batch_size},
                 {"device", "cpu"},
                 {"version", version()}});
  if (!request.image_sha256.empty()) recipe["encoder"] = info.encoder;
  return {{"Description", prompt},
          {"Software", std::string("ldm-engine ") + version()},
          {"ldm-engine", recipe.dump()}};
}

}  // namespace ldm_engine
