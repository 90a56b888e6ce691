// An image as a PNG file that carries its recipe where `ldm-engine generate --from-image` reads it.

/** That a model made the picture, in the words of IPTC. Twin: engine/ldm_engine/sampling/origin.py. */
export const XMP_PACKET =
  '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">' +
  '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ' +
  'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" ' +
  'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>' +
  '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>';

/** `rgb`: Uint8Array [height * width * 3]; `texts`: keyword to text, UTF-8. Gives a Uint8Array. */
export async function encodePng(rgb, width, height, texts) {
  const rows = new Uint8Array(height * (3 * width + 1)); // each after a byte for "no filter"
  for (let y = 0; y < height; y++)
    rows.set(rgb.subarray(3 * width * y, 3 * width * (y + 1)), y * (3 * width + 1) + 1);
  const compressed = new Response(
    new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate")),
  );
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0802); // 8 bits of red, green, blue
  const encode = (text) => new TextEncoder().encode(text);
  const chunks = [
    chunk("IHDR", new Uint8Array(header.buffer)),
    ...Object.entries(texts).map(([keyword, text]) =>
      chunk("iTXt", encode(`${keyword}\0\0\0\0\0${text}`)),
    ),
    chunk("IDAT", new Uint8Array(await compressed.arrayBuffer())),
    chunk("IEND", new Uint8Array()),
  ];
  const blob = new Blob([Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), ...chunks]);
  return new Uint8Array(await blob.arrayBuffer());
}

function chunk(type, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}
