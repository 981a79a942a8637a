-- Sends dead letters again, each to the actor that failed alone; the letter leaves in the step in which its message enters.
--
-- KEYS  the source, its dead letters
-- ARGV  for each: entry, headers (JSON or '')
--
-- Returns how many there were.

local count = 0
for i = 1, #ARGV, 2 do
  local letter = fields_of(KEYS[2], ARGV[i])
  if letter then
    local facts = by_name(letter)
    local fields = {}
    for f = 1, #letter, 2 do
      if string.sub(letter[f], 1, 2) == 'm:' then
        fields[#fields + 1] = string.sub(letter[f], 3)
        fields[#fields + 1] = letter[f + 1]
      end
    end
    fields = readdressed(fields, facts['id'], ARGV[i + 1], facts['group'])
    redis.call('XADD', KEYS[1], '*', unpack(fields))
    redis.call('XDEL', KEYS[2], ARGV[i])
    count = count + 1
  end
end
return count
