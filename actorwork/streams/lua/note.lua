-- Notes where deliveries of one source are in their lives.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, then for each: message id, claim, status, attempt, delivery count, how many values
--       say more of it, those: field, value, ...
--
-- Returns how many were noted. There is no fence: what is behind what is known is refused (state.lua).

local prefix, i, noted = ARGV[1], 2, 0
while i <= #ARGV do
  local first = i + 6
  local last = first + ARGV[i + 5] - 1
  if lives.note(prefix, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], first, last) then
    noted = noted + 1
  end
  i = last + 1
end
return noted
