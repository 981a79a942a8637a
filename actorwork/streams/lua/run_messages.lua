-- The messages of steps: templates, filled in with what other steps returned. (A part: scripts begin with the parts they need.)
--
-- Of many inputs, or long ones, none is read here: the message says so in its header `actorwork-inputs`, and the node that reads it
-- joins them, before its actor gets it (streams/inputs.py). So a script that sends a step takes as long whatever the step waits for.

local inputs = { -- Also what only this part calls: a script may have no more than 200 local variables.
  MOST = 500, -- Inputs that a script joins to a message; as in streams/plans.py.
  MOST_BYTES = 65536,
  SHORT = 128, -- Bytes of an input that is not counted: so many of them are 64 kB.
  TOLD_AT_ONCE = 500, -- Failures that a script writes for the message that has all of them.
}

function inputs.as_failed(name, ended)
  local failure = ended.failure or { type = ended.how, reason = '' }
  return cjson.encode({ step = name, kind = ended.how, error = failure.type, reason = failure.reason })
end

local function fetch(key, numbers, found)
  for first = 1, #numbers, CHUNK do
    local last = math.min(first + CHUNK - 1, #numbers)
    local some = redis.call('HMGET', key, unpack(numbers, first, last))
    for i = first, last do
      found[numbers[i]] = some[i - first + 1]
    end
  end
  return found
end

-- The failures of a run, as JSON without brackets, and how many: those from one on, by their numbers.
function inputs.failures(r, first, most)
  local numbers, failed = listed.of(r, ':fails', most, first), {}
  if numbers[#numbers] == RESULT then -- It is behind all steps, and none.
    numbers[#numbers] = nil
  end
  local ended, plans = fetch(r.at .. ':ends', numbers, {}), fetch(r.at .. ':steps', numbers, {})
  for i, number in ipairs(numbers) do
    failed[i] = inputs.as_failed(cjson.decode(plans[number]).name, cjson.decode(ended[number]))
  end
  return table.concat(failed, ','), #numbers
end

-- Of very many failures, a script writes a page of those that the message for failures has: `told` is how many are written, then
-- 'all'. Returns whether that is not done.
function inputs.tell_failures(r, is_to_begin)
  local told = redis.call('HMGET', r.at, 'told', 'on_error')
  if told[1] == 'all' or not told[2] or not r.is_new or not told[1] and listed.count(r, ':fails') <= inputs.TOLD_AT_ONCE then
    return false
  elseif is_to_begin then
    return true
  end
  local first = tonumber(told[1] or '0')
  local text, count = inputs.failures(r, first, inputs.TOLD_AT_ONCE)
  if count > 0 then
    redis.call('HSET', r.at .. ':told', whole(first / inputs.TOLD_AT_ONCE), text)
  end
  redis.call('HSET', r.at, 'told', count < inputs.TOLD_AT_ONCE and 'all' or whole(first + count))
  return count == inputs.TOLD_AT_ONCE
end

-- The pages that were written, with commas between them; all failures, if they are few.
function inputs.all_failures(r)
  if redis.call('HGET', r.at, 'told') ~= 'all' then
    return (inputs.failures(r))
  end
  local pages = {}
  for page = 0, math.ceil(listed.count(r, ':fails') / inputs.TOLD_AT_ONCE) - 1 do
    pages[#pages + 1] = whole(page)
  end
  local texts, text = fetch(r.at .. ':told', pages, {}), {}
  for _, page in ipairs(pages) do
    text[#text + 1] = texts[page] or nil -- Of the last one only the result may have been left.
  end
  return table.concat(text, ',')
end

-- The places of the steps that were added to a group, after those in the template.
function inputs.added_to(r, piece)
  local text = redis.call('HGET', r.at .. ':grown', piece[2])
  local places = {}
  for i, step in ipairs(text and cjson.decode(text) or {}) do
    places[i] = { step, piece[4] }
  end
  return places
end

-- Adds the pieces of a template to `text`: JSON, and the JSON of what other steps returned.
function inputs.fill(r, template, text, ends, values)
  for _, piece in ipairs(template) do
    if type(piece) == 'string' then
      text[#text + 1] = piece
    elseif piece[1] == 'g' then
      text[#text + 1] = '['
      for i, part in ipairs(piece[3]) do
        if i > 1 then
          text[#text + 1] = ','
        end
        if part[2] == 'r' then -- As below: most are, and there may be thousands.
          text[#text + 1] = values[part[1]]
        else
          inputs.fill(r, { part }, text, ends, values)
        end
      end
      for i, place in ipairs(piece.added) do
        if i > 1 or #piece[3] > 0 then
          text[#text + 1] = ','
        end
        inputs.fill(r, { place }, text, ends, values)
      end
      text[#text + 1] = ']'
    elseif piece[1] == 'f' then
      text[#text + 1] = '[' .. inputs.all_failures(r) .. ']'
    elseif piece[2] == 'r' then
      text[#text + 1] = values[piece[1]]
    elseif values[piece[1]] then
      text[#text + 1] = '{"value":' .. values[piece[1]] .. '}'
    else
      text[#text + 1] = inputs.as_failed(name_of(r, piece[1]), cjson.decode(ends[piece[1]]))
    end
  end
end

function inputs.gather(r, template, wanted)
  for _, piece in ipairs(template) do
    if type(piece) == 'table' then
      if piece[1] == 'g' then
        piece.added = inputs.added_to(r, piece)
        inputs.gather(r, piece[3], wanted)
        inputs.gather(r, piece.added, wanted)
      elseif piece[1] ~= 'f' then
        wanted[#wanted + 1] = piece[1]
      end
    end
  end
end

local function joined(r, template, wanted)
  local text = {}
  local values, failed = fetch(r.at .. ':values', wanted, {}), {}
  for _, step in ipairs(wanted) do
    if not values[step] then
      failed[#failed + 1] = step
    end
  end
  inputs.fill(r, template, text, fetch(r.at .. ':ends', failed, {}), values)
  return table.concat(text)
end

-- How many bytes an end adds to the messages of those who wait for it; 0 for a few, of which there may be many in a message.
function inputs.size(ended)
  local text = ended.value or ended.failure and ended.failure.reason
  local size = ended.size or type(text) == 'string' and #text or 0
  return size > inputs.SHORT and size or 0
end

-- Whether inputs take long to join: they are very many, or long. `step` is that which waits for them, or RESULT.
function inputs.are_large(r, step, count)
  return r.is_new and (count > inputs.MOST
    or count > 0 and tonumber(redis.call('HGET', r.state, 'b' .. step) or '0') > inputs.MOST_BYTES)
end

-- The result of a run as JSON; false if those who ask for it are to join it (streams/joining.py), unless it `is_wanted` now: a run in
-- the place of a step has the result of one of its own steps.
function inputs.result(r, text, count, is_wanted)
  if tonumber(count or '0') > inputs.MOST and r.is_new and not is_wanted then
    return false
  end
  local template, wanted = cjson.decode(text), {}
  inputs.gather(r, template, wanted)
  return (is_wanted or #wanted < 2 or not inputs.are_large(r, whole(RESULT), #wanted)) and joined(r, template, wanted)
end

-- The message of a step, and its headers. What is not joined here is no JSON: a node of a version that does not know the header
-- makes it a dead letter, and who looks at the message sees what it is.
function inputs.message(r, plan, step)
  local template, count = plan.template, plan.inputs
  if template then
    if #template == 1 and type(template[1]) == 'string' then
      return template[1], plan.headers
    end
    local wanted = {}
    inputs.gather(r, template, wanted)
    count = #wanted
    if not step or not inputs.are_large(r, step, count) then
      return joined(r, template, wanted), plan.headers
    end
  end
  local number = r.run .. '/' .. step
  -- The proof keeps other producers from having a node read what they may not (streams/inputs.py).
  local header = cjson.encode(r.home .. '/' .. number .. '/' .. redis.sha1hex(r.secret .. '/inputs/' .. number))
  return '(inputs: ' .. whole(count) .. ", which the node that reads the message takes from run '" .. r.run .. "')",
    '{"actorwork-inputs":' .. header .. ',' .. string.sub(plan.headers, 2)
end

function inputs.write_message(r, plan, id, sent, unlisted, is_kept)
  local prefix = 'actorwork:{' .. plan.source .. '}:'
  local claim = step_claim(r.secret, id)
  local data, headers = inputs.message(r, plan, plan.number)
  local fields = { 'id', id, 'data', data, 'headers', headers, 'claim', claim }
  for _, name in ipairs({ 'type', 'group', 'key', 'priority' }) do
    if plan[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = plan[name]
    end
  end
  if plan.lifetime or plan.expires then
    local expires = math.min(plan.expires or math.huge, plan.lifetime and now_ms() + plan.lifetime or math.huge)
    fields[#fields + 1] = 'expires'
    fields[#fields + 1] = whole(expires)
  end
  if away.is(plan.source) then
    -- A mark of its own: a run that was retried may send what undoes a step under the same id once more.
    local mark = prefix .. 'seen:' .. id .. '/' .. redis.call('HINCRBY', r.at, 'sent', 1)
    away.publish(plan.source, mark, cjson.encode({ due = plan.due, keep = tonumber(r.ttl) }), fields)
    return ''
  end
  local at, rest = due_ms(plan.due or '')
  local place
  if at then
    hold_back(prefix, id, at, rest, fields)
    place = '~' .. id
  else
    -- Without a key it waits for no other message; its place is noted by the caller.
    place = plan.key and enter(prefix, id, fields, true) or not plan.key and enter_now(prefix, plan.priority, fields) or nil
  end
  if place and is_kept then
    unlisted[#unlisted + 1] = id
  elseif place then
    lives.begin(prefix, id, claim, r.ttl, sent or whole(now_ms()), place, 0, unlisted)
  end
  return place
end

-- Sends the message of a step; returns its place, or nil if the source cannot take it. An error (a right to its keys that is
-- lacking, a key of another type) must not end the script: its caller has settled the member that released the step. `sent` is
-- the time, if the caller knows it; for `unlisted` see state.lua. `is_kept` says that the run keeps the life of the message.
local function send_message(r, plan, id, sent, unlisted, is_kept)
  local good, place = pcall(inputs.write_message, r, plan, id, sent, unlisted, is_kept)
  return good and place or nil
end
