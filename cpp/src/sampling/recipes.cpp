// The recipe that an image file carries: all that is needed to render it again, pixel for pixel.
#include "sampling/recipes.hpp"

#include <nlohmann/json.hpp>

#include "ldm_engine/pipeline.hpp"
#include "sampling/settings.hpp"

namespace ldm_engine {

namespace {

/// The XMP packet that says that a model made a picture, from a given one or not: IPTC's digital
/// source type. Twin: engine/ldm_engine/sampling/origin.py.
std::string xmp_packet(bool has_input) {
  const std::string term =
      has_input ? "compositeWithTrainedAlgorithmicMedia" : "trainedAlgorithmicMedia";
  return "<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>"
         "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">"
         "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">"
         "<rdf:Description rdf:about=\"\" "
         "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" "
         "Iptc4xmpExt:DigitalSourceType=\"http://cv.iptc.org/newscodes/digitalsourcetype/" +
         term + "\"/></rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>";
}

}  // namespace

std::vector<ImageText> recipe_texts(const std::string& prompt, const Request& request,
                                    const Info& info, int batch_size, bool mark) {
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
  if (mark) recipe["mark"] = true;
  std::vector<ImageText> texts = {{"Description", prompt},
                                  {"Software", std::string("ldm-engine ") + version()},
                                  {"ldm-engine", recipe.dump()}};
  if (mark) texts.push_back({"XML:com.adobe.xmp", xmp_packet(!request.image_sha256.empty())});
  return texts;
}

}  // namespace ldm_engine
