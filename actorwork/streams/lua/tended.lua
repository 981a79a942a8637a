-- The notes of a group that a source is maintained. (A part: scripts begin with the parts they need.)
--
--   tended:<group>    a hash, times in ms since the epoch:
--
--     at              when all streams of the source were maintained last; 0 if something is left that other nodes are to see;
--                     while a node begins to maintain, a moment that keeps the others from it for now (look.lua)
--     due             when the next delayed message or run is due, as that node saw it; 0 for none
--     by              its name
--     asked           for each node that has asked since `since`, after how many ms it does so again, in all (look.lua)
--     full            the same of the nodes that have no room for what they might take over
--     nodes           about how many nodes there are, from `asked` over the time before `since`
--     roomy           about how many of them have room, from `full` (a node of an older version leaves this as it is)
--     since           when the keys of the source were looked at last (`heal` in maintain.lua), about once a second
--     cursor          where that continues
--     clean_at        when the consumers of dead nodes are removed next
--
-- They save work, and nothing else: a node that finds none, or may not write them, maintains. So they are not replicated, and
-- not written to the append-only file, in which they would be the only thing that an idle node writes every second.

local FRESH = 850 -- ms for which one node's maintenance is enough for all

local function tended_at(prefix, group)
  return prefix .. 'tended:' .. group
end

local function note_tended(...)
  local has_modes = redis.set_repl and pcall(redis.set_repl, redis.REPL_NONE)
  local reply = redis.pcall(...)
  if has_modes then
    redis.set_repl(redis.REPL_ALL)
  end
  return reply
end

local function ms_in(text)
  return tonumber(text or '') or 0
end
