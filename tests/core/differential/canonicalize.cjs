// Reads one JSON array a line, ["double", <16 hex digits>] or ["json", <JSON text>], and answers each with its canonical form on a line.
'use strict';

const canonicalize = require('canonicalize');

const read = {
  double: (hex) => Buffer.from(hex, 'hex').readDoubleBE(0),
  json: (text) => JSON.parse(text),
};

const chunks = [];
process.stdin.on('data', (chunk) => chunks.push(chunk));
process.stdin.on('end', () => {
  const lines = Buffer.concat(chunks).toString('utf8').split('\n').filter((line) => line !== '');
  const answers = lines.map((line) => {
    const [kind, text] = JSON.parse(line);
    return canonicalize(read[kind](text));
  });
  process.stdout.write(answers.join('\n') + '\n');
});
