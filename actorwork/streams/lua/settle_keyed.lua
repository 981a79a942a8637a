-- Settles a batch of acks of one source and group, as nearly all are of messages with keys and of asks: what settle.lua does
-- with them, without the functions for all else, which take as long to make as such a settlement itself.
--
-- KEYS  the stream, the record of the last batch
-- ARGV  as settle.lua, up to the plain acks; then what all changes of states have in common, schema, ttl, and how many changes
--       are kept (entities.lua); then for each settlement:
--         kind, entry id, delivery count, message id, its key ('' means none); if there is a 'u' in the kind: its unique key; an
--         'r': outcome, where to publish it; an '=': the version before, stamp, mark, and new state of its key (entities.lua)
--       The last value is as in settle.lua.
--
-- Returns what settle.lua does. None of these messages is tracked, is a step of a run, or publishes anything.

local schema, ttl, kept = ARGV[i], ARGV[i + 1], ARGV[i + 2]
local room = tonumber(ARGV[#ARGV])
local last = #ARGV - 1
local missing = lacks('leaving', needs_of_leaving, prefix)

-- What a settlement of a kind has: a unique key, a reply, a change of a state; and how many values.
local function form_of(kind)
  local unique, reply, change = string.find(kind, 'u', 1, true), string.find(kind, 'r', 1, true), string.find(kind, '=', 1, true)
  local size = 5 + (unique and 1 or 0) + (reply and 2 or 0) + (change and 4 or 0)
  return { unique = unique, reply = reply, change = change, size = size }
end

local forms = {}

i = i + 3
while i <= last do
  local kind, id, count, message_id, key = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local form = forms[kind]
  if not form then
    form = form_of(kind)
    forms[kind] = form
  end
  local change = form.change and i + form.size - 4
  local has_key = key ~= ''
  local problem = (has_key or form.unique) and missing or change and (lacks('entity', entities.needs, prefix, group)
    or entities.problem(prefix, group, key, ARGV[change]))
  if settled[id] or not mine(id, count) then
    fenced[#fenced + 1] = which
  elseif problem then
    refused[#refused + 1] = which
    refused[#refused + 1] = problem
  else
    if change then
      entities.change(prefix, group, key, message_id, consumer, ARGV[change], ARGV[change + 1], schema, ttl, kept,
        ARGV[change + 2], ARGV[change + 3])
    end
    settled[id] = true
    acked[#acked + 1] = id
    holds(id, has_key and key, form.unique and ARGV[i + 5])
    if form.reply then
      local at = form.unique and i + 6 or i + 5
      store_outcome(prefix, message_id, ARGV[at], '', '', ARGV[at + 1])
    end
  end
  which = which + 1
  i = i + form.size
end
return conclude(room)
